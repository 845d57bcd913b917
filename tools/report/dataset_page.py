"""The HTML page of `detector inspect`: plain HTML and CSS with inline SVG, self-contained, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from detector.datasets.inspection import Inspection
from detector.datasets.sample import Annotation, Dataset, Sample
from detector.tools.report.drawn_boxes import Mark, drawn_boxes
from detector.tools.report.html import page, table, tiles
from detector.tools.report.plots import bars

FAULTS_LISTED = 200


def render(found: Inspection, datasets: Mapping[str, Dataset], samples: Sequence[Sample] = ()) -> str:
    """Return the whole page. `datasets` are the splits with the example pictures, `samples` are training samples."""
    sections = {
        "Faults": faults(found),
        "Oddities": oddities(found),
        "Classes": classes(found),
        "Sizes": sizes(found),
        "Pictures": pictures(found, datasets),
    }
    if samples:
        sections["Training samples"] = training_samples(samples, datasets["train"].classes)
    return page(f"Data in {found.root}", summary(found), sections)


def summary(found: Inspection) -> str:
    """Return how the folder was read, and the main counts."""
    objects = sum(sum(counts.values()) for counts in found.objects.values())
    counts = [
        *((count, f"pictures to {'train on' if name == 'train' else name}") for name, count in found.images.items()),
        (objects, "objects"),
        (len(found.objects), "classes"),
        (len(found.faults), "faults"),
        (len(found.oddities), "oddities"),
    ]
    lines = "<br>".join(escape(line) for line in found.summary)
    return f"<p>{lines}</p>{tiles((f'{count:,}', name) for count, name in counts)}"


def faults(found: Inspection) -> str:
    """Return the faults. With a fault, training does not start."""
    if not found.faults:
        return "<p>None: training can start.</p>"
    rows = [[fault.image_id, fault.message] for fault in found.faults[:FAULTS_LISTED]]
    more = len(found.faults) - FAULTS_LISTED
    rest = f"<p>... and {more:,} more, in inspection.json.</p>" if more > 0 else ""
    return (
        "<p>Training does not start with these faults. Correct them, or write a copy without them: "
        "<code>detector inspect data=FOLDER fix=FOLDER</code>.</p>"
        f"{table(['picture', 'fault'], rows, text_column=1)}{rest}"
    )


def oddities(found: Inspection) -> str:
    """Return the oddities, which may be mistakes."""
    if not found.oddities:
        return "<p>None.</p>"
    rows = [[odd.kind, f"{odd.count:,}", "; ".join(odd.cases)] for odd in found.oddities]
    listed = table(["oddity", "count", "first cases"], rows, text_column=2)
    return f"<p>These may be correct. Nothing was changed.</p>{listed}"


def classes(found: Inspection) -> str:
    """Return the number of objects of each class, in each split."""
    total = {name: sum(counts.values()) for name, counts in found.objects.items()}
    plot = bars(
        [
            (name, float(count), ", ".join(f"{split} {number:,}" for split, number in found.objects[name].items()))
            for name, count in sorted(total.items(), key=lambda item: -item[1])
        ]
    )
    return f"<p>Objects of each class.</p><figure>{plot}</figure>"


def sizes(found: Inspection) -> str:
    """Return the sizes of pictures and objects, and the objects' aspect ratios."""
    groups = {
        "Pictures, width by height": found.image_sizes[:12],
        "Objects, percent of their picture's area": found.object_sizes,
        "Objects, height by width": found.aspects,
    }
    figures = ""
    for name, rows in groups.items():
        plot = bars([(text, float(count), f"{count:,}") for text, count in rows], width=480)
        figures += f"<figure><h3>{name}</h3>{plot}</figure>"
    return f'<div class="columns">{figures}</div>'


def pictures(found: Inspection, datasets: Mapping[str, Dataset]) -> str:
    """Return some pictures with their boxes, for a quick check of the annotations."""
    figures = []
    for split, index in found.examples:
        dataset = datasets[split]
        item = dataset.annotations[index]
        try:
            image = dataset.image(index)
        except ValueError:
            continue
        marks = _marks(item, dataset.classes)
        caption = f"{split}: {item.image_id}, {item.width}x{item.height}, {len(marks)} objects"
        figures.append(f"<figure>{drawn_boxes(image, marks)}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<p>Pictures at equal steps through each split.</p><div class="grid worst">{"".join(figures)}</div>'


def training_samples(samples: Sequence[Sample], classes: Sequence[str]) -> str:
    """Return augmented pictures of the training, with the transformed boxes."""
    figures = []
    for sample in samples:
        item = sample.annotation
        marks = _marks(item, classes)
        caption = f"{item.image_id}, shorter side {sample.short_side} px, {len(marks)} objects"
        figures.append(f"<figure>{drawn_boxes(sample.image, marks)}<figcaption>{escape(caption)}</figcaption></figure>")
    return (
        "<p>Each picture as in two epochs: augmented at random, then scaled to the stated side.</p>"
        f'<div class="grid worst">{"".join(figures)}</div>'
    )


def _marks(item: Annotation, classes: Sequence[str]) -> list[Mark]:
    return [
        Mark((x1, y1, x2, y2), "right", classes[label - 1])
        for (x1, y1, x2, y2), label in zip(item.boxes.tolist(), item.labels.tolist(), strict=True)
    ]
