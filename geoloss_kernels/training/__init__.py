"""Training, prediction and evaluation of a 3-D lesion segmentation network (optional extra ``train``)."""

from geoloss_kernels.training.config import TrainingConfig, load_config
from geoloss_kernels.training.errors import InputError
from geoloss_kernels.training.evaluation import EvaluationTable, SubjectResult, evaluate, evaluate_folders
from geoloss_kernels.training.inference import (
    Model,
    Prediction,
    load_model,
    predict_probability,
    predict_subject,
    save_prediction,
)
from geoloss_kernels.training.layouts import load_subjects
from geoloss_kernels.training.loop import TrainingResult, resume, train
from geoloss_kernels.training.losses import LOSSES, build_loss
from geoloss_kernels.training.network import NETWORKS, build_network
from geoloss_kernels.training.run_folder import EpochRecord
from geoloss_kernels.training.schedules import SCHEDULES
from geoloss_kernels.training.subjects import Subject

__all__ = [
    "TrainingConfig",
    "load_config",
    "InputError",
    "Subject",
    "load_subjects",
    "train",
    "resume",
    "TrainingResult",
    "EpochRecord",
    "Model",
    "load_model",
    "Prediction",
    "predict_subject",
    "predict_probability",
    "save_prediction",
    "evaluate",
    "evaluate_folders",
    "EvaluationTable",
    "SubjectResult",
    "LOSSES",
    "build_loss",
    "SCHEDULES",
    "NETWORKS",
    "build_network",
]
