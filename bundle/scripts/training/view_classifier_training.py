"""Training of the view classifier: on projections of CTs alone, each shown in another way, next to other images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.datalist import SOURCE_FIELDS
from ..errors import InputError
from ..io.radiograph import XRAY_KEYS
from ..radiographs.other_images import rand_others
from ..radiographs.presentation import rand_processed, rand_shown
from ..radiographs.view_classifier import POSES, ViewNetwork, standardised, write_view_classifier

if TYPE_CHECKING:
    from jaxtyping import Float

OTHERS = 0.15
"""Fraction of a batch that shows no chest."""
LABEL_SMOOTHING = 0.02
WEIGHT_DECAY = 0.01
MAX_NORM = 1.0
"""Of a step's gradient."""
LEARNING_RATE = 0.003
"""The largest, of a cycle that rises from and falls to nothing (Smith and Topin 2019, doi:10.1117/12.2520589)."""


@dataclass(frozen=True)
class ProjectedPatients:
    """
    Attributes:
        xrays: of each patient, frontal and lateral projections of deformations of the CT, `(draws, 2, P, P)`.
        cts: of each patient, in HU, `(S, S, S)`.
        records: of each patient: the CT's name and, where the datalist has them, :data:`SOURCE_FIELDS`.
    """

    xrays: Mapping[str, Float[Tensor, "draws 2 P P"]]
    cts: Mapping[str, Float[Tensor, "S S S"]]
    records: Mapping[str, Mapping[str, str]]

    def of(self, patients: Collection[str]) -> ProjectedPatients:
        """Some of the patients."""
        chosen = ({name: field[name] for name in patients} for field in (self.xrays, self.cts, self.records))
        return ProjectedPatients(*chosen)


def projected_patients(records: Iterable[Mapping[str, Any]], prepare_batch: Callable, draws: int) -> ProjectedPatients:
    """
    Args:
        records: batches of one record, such as a `DataLoader` yields; of a patient's records the last one counts.
        prepare_batch: a :class:`~scripts.PrepareBiplanarBatch` that deforms and draws views.
        draws: how many samples of each record.

    Raises:
        InputError: when there are no records.
    """
    xrays, cts, sources = {}, {}, {}
    for batch in records:
        patient = str(batch["patient"][0])
        xrays[patient] = torch.cat([torch.as_tensor(prepare_batch(batch)[0]).float() for _ in range(draws)])
        cts[patient] = torch.as_tensor(batch["ct"]).as_subclass(Tensor)[0, 0].float()
        sources[patient] = {field: str(batch[field][0]) for field in ("name", *SOURCE_FIELDS) if field in batch}
    if not xrays:
        raise InputError("views: section 'training' has no records, expected CTs to be projected.")
    return ProjectedPatients(xrays, cts, sources)


def train_view_network(patients: ProjectedPatients, steps: int, batch_size: int) -> ViewNetwork:
    """A network after so many steps of AdamW (Loshchilov and Hutter 2019), its chances by torch's global generator."""
    network = ViewNetwork().train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(steps):
        images, classes = view_batch(patients, batch_size)
        optimizer.zero_grad()
        cross_entropy(network(images), classes, label_smoothing=LABEL_SMOOTHING).backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def view_batch(
    patients: ProjectedPatients, size: int, others: float = OTHERS
) -> tuple[Float[Tensor, "size 2 S S"], Tensor]:
    """
    Standardised images, and the class of each by :class:`~scripts.radiographs.view_classifier.ViewNetwork`. All lie in
    display orientation, since the network treats every pose alike.

    Args:
        patients: each as likely.
        size: how many images.
        others: fraction of them that show no chest.
    """
    names, without = list(patients.xrays), round(others * size)
    whose = [names[int(torch.randint(len(names), ()))] for _ in range(size - without)]
    views = torch.randint(len(XRAY_KEYS), (size - without,))
    drawn = [patients.xrays[name][int(torch.randint(len(patients.xrays[name]), ()))] for name in whose]
    images = rand_shown(torch.stack([pair[view] for pair, view in zip(drawn, views)])[:, None])
    classes = POSES * views
    if without:
        cts = torch.stack(list(patients.cts.values()))
        images = torch.cat([images, rand_processed(rand_others(without, cts))])
        classes = torch.cat([classes, torch.full((without,), POSES * len(XRAY_KEYS))])
    return standardised(images, torch.ones_like(images, dtype=torch.bool)), classes


def fit_view_classifier(
    records: Iterable[Mapping[str, Any]],
    prepare_batch: Callable,
    draws: int,
    steps: int,
    batch_size: int,
    path: str,
) -> None:
    """
    Writes the view classifier's coefficients, and the records of the CTs that they derive from.

    Args:
        records: see :func:`projected_patients`; `prepare_batch` and `draws` as well.
        steps: of the training.
        batch_size: images in a step.
        path: the file to write.

    Raises:
        InputError: when there are no records.
        OutputError: when the file cannot be written.
    """
    patients = projected_patients(records, prepare_batch, draws)
    network = train_view_network(patients, steps, batch_size)
    write_view_classifier(path, network, {"records": list(map(dict, patients.records.values()))})
