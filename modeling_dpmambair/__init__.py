"""DPMambaIR: one model that restores photographs spoiled by haze, rain, snow, darkness, blur, JPEG or noise."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageToImage
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_dpmambair import DegradationExtractorConfig, DPMambaIRConfig
from .image_processing_dpmambair import DPMambaIRImageProcessor
from .large_pictures_dpmambair import restore_tiled
from .large_plan_dpmambair import plan_tiles
from .modeling_degradation_extractor import (
    DegradationDescription,
    DegradationExtractorForDescription,
    DegradationExtractorForPreTraining,
    DegradationExtractorModel,
    DegradationExtractorOutput,
)
from .modeling_dpmambair import DPMambaIRModel, DPMambaIROutput
from .picture_files_dpmambair import Picture, read_picture, write_picture
from .pipeline_dpmambair import TASK, ImageRestorationPipeline
from .restorer_dpmambair import Restorer, load_model
from .selective_scan_dpmambair import (
    ScanPrompts,
    prompted_selective_scan,
    scan_backend,
    selective_scan,
)

AutoConfig.register("dpmambair", DPMambaIRConfig)
AutoConfig.register("dpmambair_extractor", DegradationExtractorConfig)
AutoModel.register(DPMambaIRConfig, DPMambaIRModel)
AutoModel.register(DegradationExtractorConfig, DegradationExtractorModel)
AutoModelForImageToImage.register(DPMambaIRConfig, DPMambaIRModel)
AutoImageProcessor.register(DPMambaIRConfig, image_processor_classes={"torchvision": DPMambaIRImageProcessor})
PIPELINE_REGISTRY.register_pipeline(TASK, ImageRestorationPipeline, pt_model=AutoModelForImageToImage, type="image")

__all__ = [
    "DPMambaIRConfig",
    "DPMambaIRImageProcessor",
    "DPMambaIRModel",
    "DPMambaIROutput",
    "DegradationDescription",
    "DegradationExtractorConfig",
    "DegradationExtractorForDescription",
    "DegradationExtractorForPreTraining",
    "DegradationExtractorModel",
    "DegradationExtractorOutput",
    "ImageRestorationPipeline",
    "Picture",
    "Restorer",
    "ScanPrompts",
    "load_model",
    "plan_tiles",
    "prompted_selective_scan",
    "read_picture",
    "restore_tiled",
    "scan_backend",
    "selective_scan",
    "write_picture",
]
