"""The report of a study: tables beside the paper's, what they say, figures, and results of every subject."""

from __future__ import annotations

import csv
import io
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

from geoloss_kernels import __version__
from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.files import write_text
from geoloss_kernels.lesions.study import paper, summary
from geoloss_kernels.lesions.study.cells import Cell
from geoloss_kernels.lesions.study.document import Block, Heading, Paragraph, Table, to_html, to_markdown
from geoloss_kernels.lesions.study.effects import SIGNIFICANT, TEST, Pair, compare, pool_comparisons
from geoloss_kernels.lesions.study.measurements import TABLE_THRESHOLD, THRESHOLDS
from geoloss_kernels.lesions.study.methods import BASELINE, FOG, FOG_FORMS, TITLES, VARIANTS, contrasts
from geoloss_kernels.lesions.study.paper import Rates
from geoloss_kernels.lesions.study.presets import Preset
from geoloss_kernels.lesions.study.settings import FOLDERS, StudyFolders, StudySettings
from geoloss_kernels.lesions.study.statistics import Row, make_rows
from geoloss_kernels.lesions.study.study_figures import draw_figures
from geoloss_kernels.lesions.study.summary import Extent, comparison_blocks, listed, power_blocks, sentences
from geoloss_kernels.lesions.training.devices import resolve_device

TITLE = "GEO losses: the experiment of Zhang et al., ISBI 2021, repeated"
RATES = {"dice": "DSC", "lppv": "LPPV", "ltpr": "LTPR", "lf1": "L-F1"}
COUNTS = (
    "predicted_voxels",
    "reference_voxels",
    "common_voxels",
    "predicted_lesions",
    "reference_lesions",
    "detected_lesions",
)
PATIENTS = "patients"

NOTES = (
    "Rates are means over the test subjects at a probability threshold of 0.5, ± the standard deviation "
    "over the seeds where there are several; L-F1 is the harmonic mean of the averaged LTPR and LPPV, as "
    "in the paper's rows; LPPV is the paper's, reference lesions found / predicted lesions. p DSC and p "
    "L-F1 are of two-sided Wilcoxon signed-rank tests against Dice over the subjects, of these trainings "
    "and uncorrected. Times are medians over the steps of a training; those of the loss count its forward "
    "and backward pass. The memory of the loss is its peak beyond logits, mask and gradient; on a CPU "
    "some 0.1 MB of it are noise."
)


def write_report(
    folders: StudyFolders, settings: StudySettings, cells: Sequence[Cell], beside: Sequence[Cell] = ()
) -> list[Path]:
    """Writes report.html, report.md, results.csv and the figures into ``folders.results``.

    thresholds.csv goes into ``folders.out``, as what it is made of.

    Args:
        folders: Of the study.
        settings: Of the study.
        cells: All of the study's; those that are not measured yet are said to be missing.
        beside: Of other studies, for the summary.

    Returns:
        The files, the report first.

    Raises:
        InputError: nothing is measured yet, or not on the same subjects.
    """
    done = [cell for cell in cells if cell.is_measured(TEST)]
    if not done:
        raise InputError(f"{folders.results}: expected results to report, found none")
    others = [cell for cell in beside if cell.is_measured(TEST)]
    blocks = [
        Heading(TITLE, 1),
        *_summary(settings, [*done, *others], len(cells) + len(beside)),
        *_missing(settings, cells),
        *make_report(folders.results, settings, done),
    ]
    files = {
        folders.results / "report.html": to_html(blocks, TITLE),
        folders.results / "report.md": to_markdown(blocks, folders.results),
        folders.results / "results.csv": results_csv(done, only_table=True),
        folders.out / "thresholds.csv": results_csv(done, only_table=False),
    }
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def make_report(folder: Path, settings: StudySettings, cells: Sequence[Cell]) -> list[Block]:
    """The blocks after the summary, of cells that are measured; draws the figures into ``folder``."""
    by_dataset = group(cells)
    compared = {found[0].data.name: compare(found, _pairs(found)) for found in by_dataset.values()}
    blocks: list[Block] = [Heading("The study"), *_setup(settings, by_dataset)]
    for found in by_dataset.values():
        name = found[0].data.name
        blocks += _dataset_blocks(name, make_rows(found, TEST))
        blocks += comparison_blocks(f"How sure the differences are, on {name}", compared[name])
    if settings.real_patients is not None:
        for found in by_dataset.values():
            if not (with_patients := [cell for cell in found if cell.is_measured(PATIENTS)]):
                continue
            rows = make_rows(with_patients, PATIENTS)
            blocks += [
                Heading(f"Other patients, by the networks of {found[0].data.name}"),
                Table(table_rows(rows, {})),
                *map(Paragraph, findings(rows, {})),
            ]
    blocks += power_blocks(compared)
    notes = [NOTES, summary.NOTES, *_misprints()]
    blocks += [Heading("How to read the tables"), *map(Paragraph, notes)]
    pictures = draw_figures(next(iter(by_dataset.values())), folder / "figures")
    return [*blocks, Heading("Figures"), *pictures] if pictures else blocks


def group(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Description of a data set -> its cells."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.data.description, []).append(cell)
    return groups


def _pairs(cells: Sequence[Cell]) -> list[Pair]:
    return contrasts({cell.method for cell in cells})


def _summary(settings: StudySettings, cells: Sequence[Cell], planned: int) -> list[Block]:
    """The sentences of the first page, and the effects that they are made of."""
    groups = group(cells)
    losses = pool_comparisons([compare(found, _pairs(found)) for found in groups.values()])
    others = [(form, FOG) for form in FOG_FORMS if form != FOG]
    of_forms = [
        compare(found, [pair for pair in others if {*pair} <= {cell.method for cell in found}])
        for found in groups.values()
    ]
    forms = pool_comparisons(of_forms)
    extent = Extent(_steps(settings.size), len(cells), planned)
    return [
        *map(Paragraph, sentences(losses, forms, extent)),
        *comparison_blocks("All data sets together", losses),
        *comparison_blocks("Forms of FOG against FOG, all data sets together", forms),
    ]


def _missing(settings: StudySettings, cells: Sequence[Cell]) -> list[Block]:
    """What is not measured yet, and how to go on; nothing if all is."""
    missing = [cell for cell in cells if not cell.is_measured(TEST)]
    if not missing:
        return []
    seeds: dict[str, list[str]] = {}
    for cell in missing:
        seeds.setdefault(f"{cell.data.name} {TITLES[cell.method]}", []).append(str(cell.seed))
    names = [f"{row} (seed {', '.join(of_row)})" for row, of_row in seeds.items()]
    options = "".join(f" --{name.replace('_', '-')} DIR" for name in settings.sources() if name in FOLDERS)
    options += "".join(f" --data {name}=DIR" for name in settings.data)
    return [
        Heading("What is missing"),
        Paragraph(
            f"{len(missing)} of {len(cells)} trainings: {'; '.join(names)}. With this folder as RESULTS, the "
            f"study goes on by: geoloss reproduce --out DIR --results RESULTS{options}"
        ),
    ]


def table_rows(rows: Mapping[str, Row], printed: Mapping[str, Rates]) -> list[list[str]]:
    """Header and a row per method: each rate beside the paper's, p against Dice, cost."""
    header = ["Method"]
    for title in RATES.values():
        header += [title, "paper"] if printed else [title]
    header += ["p DSC", "p L-F1", "loss ms", "step ms", "loss MB"]
    return [header, *(_cells(row, printed) for row in rows.values())]


def findings(rows: Mapping[str, Row], printed: Mapping[str, Rates]) -> list[str]:
    """What the numbers say, in sentences: the best rows, and whether FOG beats Dice."""
    sentences = [_best(rows, printed, rate) for rate in ("dice", "lf1")]
    if FOG in rows and BASELINE in rows:
        sentences.append(compare_with_baseline(rows[FOG], rows[BASELINE]))
    return sentences


def added_time(rows: Mapping[str, Row]) -> list[str]:
    """By how much each loss lengthens a step of Dice, as a sentence; none without Dice or other losses."""
    dice = rows[BASELINE].cost if BASELINE in rows else None
    if dice is None:
        return []
    added = {
        method: (row.cost.loss_seconds - dice.loss_seconds) / dice.step_seconds
        for method, row in rows.items()
        if row.cost is not None and method != BASELINE
    }
    shares = [f"{TITLES[method]} {share:+.1%}" for method, share in added.items()]
    return [f"Time that the loss adds to a step with Dice: {', '.join(shares)}."] if shares else []


def compare_with_baseline(row: Row, baseline: Row) -> str:
    """Whether a method beats Dice, and by how much, with the p of the differences."""
    title, against = TITLES[row.method], TITLES[baseline.method]
    better = [RATES[rate] for rate in RATES if getattr(row.mean, rate) > getattr(baseline.mean, rate)]
    others = [label for label in RATES.values() if label not in better]
    if not better:
        verdict = f"{title} does not beat {against} in any of the four rates"
    elif not others:
        verdict = f"{title} beats {against} in all four rates"
    else:
        verdict = f"{title} beats {against} in {listed(better)}, not in {listed(others)}"
    differences = [
        f"{RATES[rate]} {getattr(row.mean, rate) - getattr(baseline.mean, rate):+.3f} (p = {row.p[rate]:.2g})"
        for rate in ("dice", "lf1")
    ]
    significant = [RATES[rate] for rate in ("dice", "lf1") if row.p[rate] < SIGNIFICANT]
    strength = (
        f"significant at {SIGNIFICANT} over {row.subjects} subjects: {listed(significant)}"
        if significant
        else f"neither is significant at {SIGNIFICANT} over {row.subjects} subjects"
    )
    return f"{verdict}. {listed(differences)}; {strength}."


def results_csv(cells: Sequence[Cell], *, only_table: bool) -> str:
    """A line per data set, test set, method, seed, subject and threshold: rates and counts.

    Of the threshold of the tables, or of all thresholds, of cells that have been measured on this machine.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = ["dataset", "test set", "method", "seed", "subject", "threshold"]
    writer.writerow([*keys, *RATES.values(), "LPPV (predicted)", *COUNTS])
    for cell in cells:
        for test_set in filter(cell.is_measured, (TEST, PATIENTS)):
            measured = cell.measurements(test_set)
            if not only_table and len(measured.thresholds) < len(THRESHOLDS):
                continue
            for subject, by_threshold in measured.subjects.items():
                for threshold in (TABLE_THRESHOLD,) if only_table else THRESHOLDS:
                    metrics = by_threshold[threshold]
                    rates = [getattr(metrics, rate) for rate in (*RATES, "lppv_predicted")]
                    writer.writerow(
                        [
                            *(cell.data.name, test_set, TITLES[cell.method], cell.seed, subject, threshold),
                            *(format(rate, ".6g") for rate in rates),
                            *(getattr(metrics, count) for count in COUNTS),
                        ]
                    )
    return text.getvalue()


def _steps(size: Preset) -> str:
    """The length of a training, in words."""
    if size.steps_per_epoch is None:
        return f"{size.epochs} epochs of 4 crops per training subject"
    return f"{size.epochs * size.steps_per_epoch} steps"


def _setup(settings: StudySettings, by_dataset: Mapping[str, Sequence[Cell]]) -> list[Block]:
    size = settings.size
    device = resolve_device("auto")
    machine = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU ({platform.machine()}) with {torch.get_num_threads()} of torch's threads"
    )
    costs = [cost for cells in by_dataset.values() for cell in cells if (cost := cell.cost()) is not None]
    hours = math.fsum(cost.training_seconds for cost in costs) / 3600
    return [
        Paragraph(
            f"geoloss reproduce {__version__}, preset {size.name}: {size.summary}. {_steps(size)} in "
            f"{size.epochs} epochs, batches of {size.batch_size} crops, Adam with learning rate "
            f"{size.learning_rate:g}, network {size.network} with {'-'.join(map(str, size.channels))} "
            f"channels, {settings.seeds} seed{'s' if settings.seeds > 1 else ''}, reported on {machine}, "
            f"torch {torch.__version__}, {date.today().isoformat()}. {len(costs)} trainings took "
            f"{hours:.1f} hours."
        ),
        *(Paragraph(f"{description}{_chosen(cells)}.") for description, cells in by_dataset.items()),
    ]


def _chosen(cells: Sequence[Cell]) -> str:
    """What was chosen on the validation subjects, in words; empty for networks."""
    notes = {name: value for cell in cells for name, value in cell.measurements(TEST).notes.items()}
    return "".join(f"; {name} {value:g}, chosen on the validation subjects" for name, value in notes.items())


def _dataset_blocks(name: str, rows: Mapping[str, Row]) -> list[Block]:
    """The paper's tables of a data set; one table of all rows for a data set that the paper does not have."""
    tables = [table for table in paper.TABLES if table.dataset == name]
    if not tables:
        return [
            Heading(f"Results on {name}"),
            Table(table_rows(rows, {})),
            *map(Paragraph, [*findings(rows, {}), *added_time(rows)]),
        ]
    blocks: list[Block] = []
    for table in tables:
        shown = {method: rows[method] for method in table.rows if method in rows}
        if shown:
            blocks += [
                Heading(f"Table {table.number}: {table.caption}"),
                Table(table_rows(shown, table.rows)),
                *map(Paragraph, [*findings(shown, table.rows), *added_time(shown)]),
            ]
    return blocks + _variants(name, rows)


def _variants(name: str, rows: Mapping[str, Row]) -> list[Block]:
    """A table of the rows that the paper does not have beside FOG and Dice, if there are any."""
    shown = {method: row for method, row in rows.items() if method in (BASELINE, FOG, *VARIANTS)}
    if shown.keys().isdisjoint(VARIANTS):
        return []
    compared = [row for method, row in shown.items() if method != BASELINE and BASELINE in shown]
    return [
        Heading(f"Further rows, on {name}"),
        Table(table_rows(shown, {})),
        *(Paragraph(compare_with_baseline(row, shown[BASELINE])) for row in compared),
    ]


def _misprints() -> list[str]:
    printed = {table.number: table.rows for table in paper.TABLES}
    return [
        f"Table {number} of the paper prints {printed[number][method].lf1:.3f} as the L-F1 of "
        f"{TITLES[method]}; the harmonic mean of the LTPR and LPPV beside it is {mean:.4f}."
        for (number, method), mean in paper.MISPRINTS.items()
    ]


def _cells(row: Row, printed: Mapping[str, Rates]) -> list[str]:
    cells = [TITLES[row.method]]
    for rate in RATES:
        cells.append(_estimate(getattr(row.mean, rate), getattr(row.spread, rate)))
        if printed:
            cells.append(_number(getattr(printed[row.method], rate), ".3f"))
    cells += [_number(row.p[rate], ".2g") for rate in ("dice", "lf1")]
    if row.cost is None:
        return [*cells, "–", "–", "–"]
    memory = math.nan if row.cost.loss_bytes is None else row.cost.loss_bytes / 1e6
    return [
        *cells,
        _number(1000 * row.cost.loss_seconds, ".1f"),
        _number(1000 * row.cost.step_seconds, ".0f"),
        _number(memory, ".1f"),
    ]


def _best(rows: Mapping[str, Row], printed: Mapping[str, Rates], rate: str) -> str:
    """The method with the highest rate, here and among the same rows of the paper."""
    defined = {
        m: getattr(row.mean, rate) for m, row in rows.items() if not math.isnan(getattr(row.mean, rate))
    }
    if not defined:
        return f"{RATES[rate]} is undefined for every row."
    sentence = f"Best {RATES[rate]}: {_leader(defined)}"
    if printed:
        sentence += f"; in the paper {_leader({m: getattr(printed[m], rate) for m in rows})}"
    return f"{sentence}."


def _leader(values: Mapping[str, float]) -> str:
    """The methods with the highest value, and that value."""
    highest = max(values.values())
    return f"{listed([TITLES[m] for m, value in values.items() if value == highest])} ({highest:.3f})"


def _estimate(mean: float, spread: float) -> str:
    return _number(mean, ".3f") if math.isnan(spread) else f"{_number(mean, '.3f')} ± {spread:.3f}"


def _number(value: float, specification: str) -> str:
    return "–" if math.isnan(value) else format(value, specification)
