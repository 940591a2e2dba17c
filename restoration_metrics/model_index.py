"""The results of an evaluation as a model card's metadata hold them: each figure with its conditions."""

from typing import Any

from huggingface_hub import EvalResult

from restoration_metrics.scores import METRICS, compare

# Name and digits after the point of each metric.
METRIC_NAMES = {"psnr": ("PSNR of the restored picture, dB", 2), "ssim": ("SSIM of the restored picture", 4)}


def measured_weights(results: Any) -> str | None:
    """Return the checksum of the weights that a results file was measured with; None where it names none.

    Args:
        results: content of any results file.
    """
    model = results.get("model") if isinstance(results, dict) else None
    return model.get("weights_sha256") if isinstance(model, dict) else None


def is_evaluation(results: Any) -> bool:
    """Say whether a results file is one of `evaluate_accelerate.py` on a benchmark that this project makes itself.

    Args:
        results: content of any results file.
    """
    is_evaluation = isinstance(results, dict) and {"benchmark", "model", "sets", "overall"} <= results.keys()
    return is_evaluation and results["benchmark"] is not None


def list_eval_results(results: dict[str, Any]) -> list[EvalResult]:
    """Bring the averages of an evaluation into entries of a model index, for each task and for all together.

    Args:
        results: what `evaluate_accelerate.py` wrote.

    Returns:
        An entry for each task and metric whose mean is a number: PSNR in dB to 2 digits, SSIM to 4. Its conditions
        stand in `dataset_args` (what was degraded, and how) and in `metric_args` (the degraded picture's own score).
    """
    benchmark, model, entries = results["benchmark"], results["model"]["name"], []
    conditions = {name: benchmark[name] for name in ("clean", "severity", "seed") if name in benchmark}
    # Composites are too many to list; their mean is.
    tasks = [(each["name"], each["pairs"], each["scores"]) for each in results["sets"] if "+" not in each["name"]]
    tasks.append(("overall", sum(each["pairs"] for each in results["sets"]), results["overall"]))
    for task, pairs, scores in tasks:
        means = compare(scores, model)
        for metric in METRICS:
            before, after = means[f"{metric}_degraded"], means[f"{metric}_restored"]
            if after is None:
                continue
            name, digits = METRIC_NAMES[metric]
            entry = EvalResult(
                task_type="image-to-image",
                task_name="all-in-one image restoration",
                dataset_type=benchmark["name"],
                dataset_name=f"{benchmark['name']} on {benchmark['clean']}: {task.replace('_', ' ')}",
                dataset_config=f"{benchmark['clean']}/{task}",
                dataset_split="test",
                dataset_args=conditions | {"pairs": pairs},
                metric_type=metric,
                metric_name=name,
                metric_value=round(after, digits),
                metric_args={"degraded": None if before is None else round(before, digits), "channels": "RGB, 8 bit"},
            )
            entries.append(entry)
    return entries
