import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from modeling_dpmambair import (
    DegradationExtractorConfig,
    DegradationExtractorModel,
    DPMambaIRConfig,
    DPMambaIRModel,
)
from tests.modeling_dpmambair.models import (
    assert_same_weights,
    pictures,
    randomized,
    small_config,
    small_extractor_config,
)

FILES = sorted((Path(__file__).resolve().parents[2] / "configuration" / "model").glob("*.json"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

EXTRACTOR_RULES = [
    ("channels", [8, 8, 8], "`channels` must be four positive widths, got [8, 8, 8]; give one a stage"),
    ("channels", [8, 0, 8, 8], "`channels` must be four positive widths, got [8, 0, 8, 8]"),
    ("kernel_sizes", [3, 4], "`kernel_sizes` must be one or more odd sizes, got [3, 4]; use 3, 5 or 7, so that they"),
    ("kernel_sizes", [], "`kernel_sizes` must be one or more odd sizes, got []"),
    ("kernel_sizes", [-3], "`kernel_sizes` must be one or more odd sizes, got [-3]"),
    ("theta", 1.5, "`theta` must be in [0, 1], got 1.5; 0.7 is the usual one"),
    ("theta", -0.1, "`theta` must be in [0, 1], got -0.1"),
    ("degradations", [], "`degradations` must be one or more different names, got []; name each once"),
    ("degradations", ["rain", "rain"], "`degradations` must be one or more different names, got ['rain', 'rain']"),
    ("embedding_dim", 0, "`embedding_dim` must be at least 1, got 0; choose a larger one"),
    ("reconstruction_dim", 0, "`reconstruction_dim` must be at least 1, got 0"),
    ("description_dim", 0, "`description_dim` must be at least 1, got 0"),
    ("head_dim", 0, "`head_dim` must be at least 1, got 0; choose a larger one"),
    ("window", 15, "`window` must be at least 16, got 15; choose a larger one"),
    ("lpips_weight", -1.0, "`lpips_weight` must be at least 0.0, got -1.0"),
]
RESTORER_RULES = [
    ("encoder_depths", [1, 1], "`encoder_depths` must be three positive block counts, got [1, 1]; give one a"),
    ("encoder_depths", [1, 0, 1], "`encoder_depths` must be three positive block counts, got [1, 0, 1]"),
    ("decoder_depths", [], "`decoder_depths` must be three positive block counts, got []"),
    ("dim", 7, "`dim` must be even and at least 2, got 7; downsampling halves it before it unshuffles"),
    ("dim", 0, "`dim` must be even and at least 2, got 0"),
    ("latent_depth", 0, "`latent_depth` must be at least 1, got 0"),
    ("d_state", 0, "`d_state` must be at least 1, got 0"),
    ("expand", 0, "`expand` must be at least 1, got 0"),
    ("prompt_dim", 0, "`prompt_dim` must be at least 1, got 0"),
    ("refinement_depth", -1, "`refinement_depth` must be at least 0, got -1"),
    ("description_weight", 0.1, "`description_weight` must be 0 without has_description, got 0.1; set it to 0"),
    ("description_weight", -1.0, "`description_weight` must be at least 0.0, got -1.0"),
    ("d_conv", 2, "`d_conv` must be"),
    ("d_conv", -1, "`d_conv` must be"),
    ("layer_norm_eps", -1.0, "`layer_norm_eps` must be"),
    ("ffn_ratio", 0.0, "`ffn_ratio` must be positive, got 0.0; 2 is the usual one"),
    ("dt_min", 0.0, "`dt_min` must be positive and at most dt_max, got 0.0; use 0.001 with dt_max 0.1"),
    ("dt_min", 0.2, "`dt_min` must be positive and at most dt_max, got 0.2"),
    ("prompts", ["B", "B"], "`prompts` must be without repetition, got ['B', 'B']; name each"),
    ("insertion", "attention", "`prompts` must be empty with insertion 'attention', got ['delta', 'B', 'C']; set"),
    ("l2_weight", -0.5, "log_weight` must be non-negative, one positive, got (1.0, -0.5, 0.001, 0.0); Eq. 11: 1, 0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "text"), EXTRACTOR_RULES)
def test_broken_rule_of_the_extractor_is_named(field, value, text):
    with pytest.raises(StrictDataclassClassValidationError, match=re.escape(text)):
        DegradationExtractorConfig(**{field: value})


@pytest.mark.parametrize(("field", "value", "text"), RESTORER_RULES)
def test_broken_rule_of_the_restorer_is_named(field, value, text):
    with pytest.raises(StrictDataclassClassValidationError, match=re.escape(text)):
        DPMambaIRConfig(**{field: value})


def test_loss_needs_one_positive_weight():
    with pytest.raises(StrictDataclassClassValidationError, match=r"one positive, got \(0.0, 0.0, 0.0, 0.0\); Eq. 11"):
        DPMambaIRConfig(l1_weight=0.0, l2_weight=0.0, fft_weight=0.0)


def test_broken_rule_of_the_nested_extractor_is_named():
    with pytest.raises(StrictDataclassClassValidationError, match="`theta` must be in"):
        DPMambaIRConfig(extractor_config={"theta": 2.0})


@pytest.mark.parametrize("source", ["class_label", "given"])
def test_description_needs_an_extractor(source):
    text = "`has_description` must be false without an extractor, got True; set embedding_source to 'extractor'"
    with pytest.raises(StrictDataclassClassValidationError, match=text):
        DPMambaIRConfig(embedding_source=source, has_description=True)


@pytest.mark.parametrize(("config", "field", "value"), [
    (DPMambaIRConfig, "dim", "48"), (DPMambaIRConfig, "encoder_depths", [1.5, 1, 1]),
    (DPMambaIRConfig, "prompts", ["delta", "E"]), (DPMambaIRConfig, "has_heb", "yes"),
    (DPMambaIRConfig, "insertion", "addition"), (DPMambaIRConfig, "embedding_source", "text"),
    (DPMambaIRConfig, "scan_directions", 4), (DPMambaIRConfig, "discretization", "bilinear"),
    (DegradationExtractorConfig, "channels", ["8", "8", "8", "8"]), (DegradationExtractorConfig, "theta", "0.7"),
])  # fmt: skip
def test_wrong_type_is_an_error_that_names_the_field(config, field, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=field):
        config(**{field: value})


def test_wrong_type_is_an_error_on_assignment_too():
    config = DPMambaIRConfig()
    with pytest.raises(StrictDataclassFieldValidationError, match="dim"):
        config.dim = "48"


def test_broken_rule_is_found_when_a_changed_configuration_is_saved(tmp_path):
    config = DPMambaIRConfig()
    config.dim = 7
    with pytest.raises(StrictDataclassClassValidationError, match="`dim` must be even"):
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize("config", [
    small_extractor_config(theta=0.5, is_merged=True, lpips_weight=0.0),
    small_config({"theta": 0.3}, prompts=("C", "delta"), dt_min=0.01, freeze_extractor=False, d_conv=5),
    small_config(prompts=[], insertion="attention", embedding_source="class_label", scan_directions=2),
], ids=["extractor", "restorer", "switches"])  # fmt: skip
def test_json_round_trip_keeps_every_field(config, tmp_path):
    config.save_pretrained(tmp_path)
    again = type(config).from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)
    assert type(config).from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()


def test_nested_extractor_may_be_missing_a_dictionary_or_a_configuration():
    by_default = DPMambaIRConfig().extractor_config
    assert by_default.to_dict() == DegradationExtractorConfig().to_dict()
    given = small_extractor_config()
    assert DPMambaIRConfig(extractor_config=given).extractor_config is given
    assert DPMambaIRConfig(extractor_config=given.to_dict()).extractor_config.to_dict() == given.to_dict()


def test_two_configurations_share_no_list():
    one, other = DPMambaIRConfig(), DPMambaIRConfig()
    one.prompts.remove("C")
    one.extractor_config.channels[0] = 1
    assert other.prompts == ["delta", "B", "C"]
    assert other.extractor_config.channels == [32, 64, 96, 192]


@pytest.mark.parametrize(("channels", "rank"), [(1, 1), (16, 1), (17, 2), (48, 3), (384, 24)])
def test_rank_of_the_step_size_is_a_sixteenth_rounded_up(channels, rank):
    assert DPMambaIRConfig().dt_rank(channels) == rank


# The family's files


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def build_on_meta(config, model=DPMambaIRModel):
    with torch.device("meta"):
        return model(config)


def test_family_has_four_files():
    assert [path.stem for path in FILES] == ["base", "light", "small", "tiny"]


@pytest.mark.parametrize(("name", "millions"), [("base", 29.352), ("small", 5.142), ("tiny", 0.81), ("light", 1.548)])
def test_parameter_count_is_the_architectures(name, millions):
    config = DPMambaIRConfig.from_json_file(FILES[0].with_name(f"{name}.json"))
    count = count_parameters(build_on_meta(config)) / 1e6
    assert count == pytest.approx(millions, rel=0.005)
    assert name != "tiny" or count < 1.0


def test_base_extractor_has_the_architectures_parameter_count():
    config = DPMambaIRConfig.from_json_file(FILES[0].with_name("base.json")).extractor_config
    assert count_parameters(build_on_meta(config, DegradationExtractorModel)) / 1e6 == pytest.approx(2.050, abs=5e-4)


@pytest.mark.parametrize(("changes", "millions"), [
    ({"extractor_config": {"embedding_dim": 256}}, 28.713), ({"extractor_config": {"embedding_dim": 384}}, 29.033),
    ({"extractor_config": {"embedding_dim": 1024}}, 30.631), ({"extractor_config": {"is_merged": False}}, 30.742),
    ({"scan_directions": 2, "prompts": ["delta", "B"]}, 31.727),
])  # fmt: skip
def test_variants_of_base_have_the_architectures_parameter_counts(changes, millions):
    fields = json.loads(FILES[0].with_name("base.json").read_text())
    extractor = {**fields.pop("extractor_config"), **changes.get("extractor_config", {})}
    config = DPMambaIRConfig(**{**fields, **changes, "extractor_config": extractor})
    assert count_parameters(build_on_meta(config)) / 1e6 == pytest.approx(millions, abs=2e-3)


@every_file
def test_file_lists_only_fields_that_exist(path):
    fields = json.loads(path.read_text())
    assert set(fields) <= set(DPMambaIRConfig().to_dict())
    assert set(fields["extractor_config"]) <= set(DegradationExtractorConfig().to_dict())


@pytest.mark.parametrize("path", [
    pytest.param(path, marks=() if path.stem == "tiny" else pytest.mark.slow, id=path.stem) for path in FILES
])  # fmt: skip
def test_model_of_a_file_trains_saves_and_reloads(path, tmp_path):
    model = randomized(DPMambaIRModel(DPMambaIRConfig.from_json_file(path)), scale=0.01)
    degraded = pictures(1, 9, 8)
    severity = torch.rand(1, len(model.config.extractor_config.degradations))
    output = model.eval()(degraded, labels=degraded.flip(-1), severity=severity)
    output.loss.backward()
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.requires_grad)
    model.save_pretrained(tmp_path)
    again = DPMambaIRModel.from_pretrained(tmp_path)
    assert_same_weights(again, model)
    torch.testing.assert_close(again(degraded).reconstruction, output.reconstruction)
