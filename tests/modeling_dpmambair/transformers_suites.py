"""Our models as transformers' own common test suites want them described; `test_transformers_suites.py` runs these."""

import unittest
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_dpmambair import (
    DegradationExtractorForDescription,
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DPMambaIRImageProcessor,
    DPMambaIRModel,
)
from tests.modeling_dpmambair.models import pictures, small_config, small_extractor_config

# Tests that say nothing about these models, and why. What transformers skips by itself is not repeated.
NOT_APPLICABLE = {"test_model_get_set_embeddings": "there are no tokens to embed"}
NOT_APPLICABLE_TO_RESTORER = {
    **NOT_APPLICABLE,
    "test_correct_missing_keys": "a restorer takes an extractor from its folder by `load_extractor`, sizes included",
}


class Tester(NamedTuple):
    """What the suites ask of a model, by the names that they use for language models.

    Attributes:
        config: of a small model.
        expected_num_hidden_layers: features that it returns on request.
        seq_length: width W of the first of these.
        hidden_size: channels C of the first of these.
        is_training: whether it has a loss.
        num_hidden_layers: must be small; these models have no such number.
        batch_size: pictures B of the inputs.
    """

    config: PreTrainedConfig
    expected_num_hidden_layers: int
    seq_length: int
    hidden_size: int = 4
    is_training: bool = True
    num_hidden_layers: int = 1
    batch_size: int = 2

    def get_config(self) -> PreTrainedConfig:
        """Return a configuration that the caller may change."""
        return type(self.config).from_dict(self.config.to_dict())

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        """Return a configuration and the inputs of a call, all but labels."""
        return self.get_config(), {"pixel_values": pictures(self.batch_size)}


class Subject(NamedTuple):
    """What one run of a suite is about.

    Attributes:
        classes: models of one configuration.
        tester: describes them.
        not_applicable: reasons to leave out tests, by their names.
    """

    classes: Sequence[type[PreTrainedModel]]
    tester: Tester
    not_applicable: dict[str, str]


def describe_subjects() -> dict[str, Subject]:
    """Return what the suites run over, by name."""
    restorer = Tester(small_config(has_description=True), 8, seq_length=24)
    config = small_extractor_config(lpips_weight=0.0, has_noise_channel=False, freeze_extractor=False)
    extractor = Tester(config, 4, seq_length=18)
    heads = (DegradationExtractorForDescription, DegradationExtractorForPreTraining)
    return {
        "Restorer": Subject((DPMambaIRModel,), restorer, NOT_APPLICABLE_TO_RESTORER),
        "Extractor": Subject((DegradationExtractorModel,), extractor._replace(is_training=False), NOT_APPLICABLE),
        "Heads": Subject(heads, extractor, NOT_APPLICABLE),
    }


def make_processor_case(processing: ModuleType) -> type[unittest.TestCase]:
    """Return a case for the image processor.

    Args:
        processing: transformers' `tests/test_image_processing_common.py`.
    """

    class ProcessorTester(processing.ImageProcessingTester):
        def _get_image_processing_classes(self) -> dict[str, type[DPMambaIRImageProcessor]]:
            return {"torchvision": DPMambaIRImageProcessor}

        def prepare_image_inputs(self, *, equal_resolution: bool = True, **options: object) -> list[object]:
            """Return pictures of one size: others cannot share a tensor, because the processor never resizes."""
            return super().prepare_image_inputs(equal_resolution=True, **options)

        def expected_output_image_shape(self, images: object) -> tuple[int, int, int]:
            """Return channels, height and width of what comes of them."""
            return self.num_channels, self.max_resolution, self.max_resolution

    class ProcessorCase(processing.ImageProcessingTestMixin, unittest.TestCase):
        image_processor_tester_class = ProcessorTester
        test_cast_dtype = True

    return ProcessorCase


def make_labels(model_class: type[PreTrainedModel], pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return labels of a model for these pictures: severities of three degradations, clean pictures, or none."""
    if model_class is DegradationExtractorModel:
        return {}
    if model_class is DegradationExtractorForDescription:
        return {"labels": torch.tensor([0.0, 0.3, 0.9]).repeat(len(pixel_values), 1)}
    return {"labels": pixel_values.flip(-1)}


def make_cases(modeling: ModuleType, configuration: ModuleType) -> dict[str, type[unittest.TestCase]]:
    """Return a case for each subject.

    Args:
        modeling: transformers' `tests/test_modeling_common.py`.
        configuration: its `tests/test_configuration_common.py`.
    """

    class Suite(modeling.ModelTesterMixin):
        test_resize_embeddings = False
        has_attentions = False

        def _prepare_for_class(
            self, inputs: dict[str, torch.Tensor], model_class: type[PreTrainedModel], return_labels: bool = False
        ) -> dict[str, torch.Tensor]:
            prepared = super()._prepare_for_class(inputs, model_class)
            return {**prepared, **(make_labels(model_class, prepared["pixel_values"]) if return_labels else {})}

        def test_config(self) -> None:
            self.config_tester.run_common_tests()

    def make(subject: Subject) -> type[unittest.TestCase]:
        def set_up(self: unittest.TestCase) -> None:
            self.model_tester, config_class = subject.tester, type(subject.tester.config)
            self.config_tester = configuration.ConfigTester(self, config_class, False, common_properties=[])

        def leave_out(reason: str) -> object:
            return unittest.skip(f"not applicable: {reason}")(lambda self: None)

        skipped = {name: leave_out(reason) for name, reason in subject.not_applicable.items()}
        members = {"all_model_classes": subject.classes, "setUp": set_up, **skipped}
        return type("Case", (Suite, unittest.TestCase), members)

    return {f"Test{name}": make(subject) for name, subject in describe_subjects().items()}
