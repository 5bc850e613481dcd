"""CTs as the loader takes them: a DICOM series, NIfTI, NRRD, MetaImage or cube, in HU, on a grid of right angles."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import itk
import nibabel
import numpy as np
import torch
from monai.data import ITKReader, MetaTensor
from monai.transforms import LoadImage
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys
from pydicom import dcmread

from ..errors import InputError, shown
from .cube_files import SUFFIX, is_cube_file, read_cube, read_cube_header
from .dicom_ct_series import check_ct_series
from .dicom_pixels import read_pixels, with_transfer_syntax
from .foreign_files import check_content
from .image_writer import cube_affine
from .itk_headers import check_meta_image, check_nrrd
from .label_maps import are_labels, is_label_map
from .limits import MAX_VOXELS, check_nifti_extent
from .nifti import NIFTI_MM, AnyCaseNibabelReader, load_nifti

NIFTI, NRRD, META_IMAGE = (".nii", ".nii.gz"), (".nrrd", ".nhdr"), (".mha", ".mhd")
AIR_HU = -1024.0
"""What padding around the scanner's circle becomes, the lowest value of most scanners."""
LARGEST_RATIO = 0.01
"""How far the sides of voxels may differ between two fields of a header."""
SLICES_LOOKED_AT = 16
"""To tell a label map from a CT by its file."""
SHEAR = 0.01
"""Largest cosine between two axes that counts as a right angle."""
EXTENT_MM = "extent_mm"
"""Where a cube's metadata has the sides of the CT that it was read from, to right, anterior and superior."""
CUBE_FOV_MM = "cube_fov_mm"
"""Where the metadata of what is a cube already has the length of its side."""
LUNG_HU, DENSE_HU = -200.0, 2000.0
"""A chest CT has values below the first, its air; one without negative values but some above the second not in HU."""


def read_ct(loader: LoadImage, path: str, field: str) -> MetaTensor:
    """
    Reads a CT: a folder as a DICOM series, which :func:`check_ct_series` checks first, or a file by its suffix.

    Args:
        loader: runs MONAI's reader of a file's format: Nibabel's for NIfTI, ITK's for all others.
        path: folder of a series, or `.nii`, `.nii.gz`, `.nrrd`, `.nhdr`, `.mha`, `.mhd`, or `.zarr.zip`, a cube of
            `launch.py preprocess`.
        field: the record's field, for messages.

    Returns:
        `(X, Y, Z)` in the file's values, for a series and a cube HU, with an affine to RAS+ in mm; the metadata of a
        cube has :data:`CUBE_FOV_MM` and :data:`EXTENT_MM`.

    Raises:
        InputError: for another suffix, a series that is no CT volume, or whose pixels cannot be decoded, a NIfTI that
            does not say how it is oriented, contradicts itself or has an impossible affine, see :func:`check_axes`, a
            damaged cube, or a header that :func:`check_nrrd` or :func:`check_meta_image` refuses.
    """
    if os.path.isdir(path):
        return _read_series(path, field)
    if is_cube_file(path):
        return _read_cube(path, field)
    check_ct_header(path, f"{shown(path)}: field '{field}'")
    if not path.lower().endswith(NIFTI):
        return loader(path, reader=_itk_reader(path))
    ct = loader(path, reader=AnyCaseNibabelReader())
    to_mm = NIFTI_MM.get(load_nifti(path).header.get_xyzt_units()[0], 1.0)  # MONAI and nibabel know no units
    ct.affine = torch.diag(torch.tensor([to_mm] * 3 + [1.0], dtype=ct.affine.dtype)) @ ct.affine
    return ct


def check_ct_header(path: str, where: str) -> None:
    """
    Refuses a file of which the header alone says that it cannot be read as a CT.

    Args:
        path: of the file.
        where: the file and field, for messages.

    Raises:
        InputError: as for :func:`read_ct`, of a file.
    """
    name = path.lower()
    if name.endswith(NIFTI + NRRD + META_IMAGE):
        check_content(path, where)
    if name.endswith(NIFTI):
        check_nifti_extent(path, MAX_VOXELS, where)
        _check_nifti_header(path, where)
    elif name.endswith(NRRD):
        check_nrrd(path, where)
    elif name.endswith(META_IMAGE):
        check_meta_image(path, where)
    elif is_cube_file(path):
        read_cube_header(path, where)
    else:
        raise InputError(
            f"{where} names no CT that can be read, expected the folder of a DICOM series or a file "
            f"{', '.join((*NIFTI, *NRRD, *META_IMAGE, SUFFIX))}; convert it, or name the folder instead of one slice."
        )


def is_label_file(path: str) -> bool:
    """
    Whether a file of which :func:`check_ct_header` has taken the header holds a label map, see
    :func:`~scripts.io.label_maps.are_labels`. Of a CT one slice is mostly enough.
    """
    return are_labels(_nifti_slices(path) if path.lower().endswith(NIFTI) else _itk_slices(path))


def _nifti_slices(path: str) -> Iterator[np.ndarray]:
    voxels = load_nifti(path, keep_file_open=True).dataobj  # a compressed file is then read on from slice to slice
    return (np.asanyarray(voxels[..., place]) for place in _spread(voxels.shape[-1]))


def _itk_slices(path: str) -> Iterator[np.ndarray]:
    """Slices; or all of them at once, where the format is read as a whole."""
    io = {} if _is_known_to_itk(path) else {"ImageIO": itk.MetaImageIO.New()}
    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=path, **io)
    reader.UpdateOutputInformation()
    image = reader.GetOutput()
    region, (width, height, depth) = itk.ImageRegion[3](), image.GetLargestPossibleRegion().GetSize()
    for place in _spread(depth):
        region.SetIndex([0, 0, place])
        region.SetSize([width, height, 1])
        image.SetRequestedRegion(region)
        reader.Update()
        read = itk.array_from_image(image)
        yield read
        if len(read) == depth:
            return


def _spread(length: int) -> list[int]:
    """Places along an axis, evenly spread from end to end."""
    return sorted(set(np.linspace(0, length - 1, SLICES_LOOKED_AT).round().astype(int).tolist()))


def _is_known_to_itk(path: str) -> bool:
    """ITK does not recognise the suffix `.MHD` by itself."""
    return not path.lower().endswith(META_IMAGE) or path.endswith(META_IMAGE)


def _itk_reader(path: str) -> ITKReader:
    return ITKReader() if _is_known_to_itk(path) else ITKReader(imageio=itk.MetaImageIO.New())


def check_ct(ct: MetaTensor, where: str) -> None:
    """
    Refuses a volume that has no place in space or is not in HU.

    Args:
        ct: `(X, Y, Z)`, with an affine.
        where: the file and field, for messages.

    Raises:
        InputError: when an axis has fewer than two voxels or no length, two axes are not at a right angle, the values
            are labels, see :func:`~scripts.io.label_maps.is_label_map`, or start at 0 and pass 2000, as stored values
            do before the rescale to HU.

    Warns:
        UserWarning: when there is no air, nothing below -200 HU.
    """
    if min(ct.shape) < 2:
        raise InputError(f"{where} has shape {tuple(ct.shape)}, expected at least 2 slices along each axis.")
    check_axes(ct.affine[:3, :3].double(), where)
    low, high = float(ct.min()), float(ct.max())
    if is_label_map(np.asarray(ct)):
        raise InputError(
            f"{where} is a label map: it holds few values, whole numbers from {low:g} to {high:g}, expected HU; name "
            f"the CT that it belongs to."
        )
    if low >= 0 and high > DENSE_HU:
        raise InputError(
            f"{where} holds values from {low:g} to {high:g}, expected HU, where air is -1000; these look like stored "
            f"values: apply the rescale slope and intercept of the original, often 1 and -1024."
        )
    if low > LUNG_HU:
        warnings.warn(
            f"{where} holds values from {low:g} to {high:g}: no air, though a chest CT in HU has some near -1000. "
            f"Is it in HU?",
            stacklevel=2,
        )


def check_axes(axes: torch.Tensor, where: str) -> None:
    """
    Args:
        axes: `(3, 3)`, a column in mm for each axis of a volume.
        where: the file and field, for messages.

    Raises:
        InputError: when an axis has no finite length or two axes are not at a right angle.
    """
    lengths = axes.norm(dim=0)
    if not (torch.isfinite(lengths).all() and (lengths > 0).all()):
        sides = " x ".join(f"{length:.3g}" for length in lengths.tolist())
        raise InputError(f"{where} has voxel sides of {sides} mm, expected finite lengths above 0.")
    cosine = ((axes / lengths).T @ (axes / lengths)).fill_diagonal_(0).abs().max()
    if cosine > SHEAR:
        raise InputError(
            f"{where} is sheared: two of its axes meet at {torch.rad2deg(torch.acos(cosine)):.1f} degrees, expected "
            f"90; resample it to a grid of right angles, as for a CT taken with a tilted gantry."
        )


def _read_series(folder: str, field: str) -> MetaTensor:
    series = check_ct_series(folder, field)
    hu = np.stack([_read_slice(file, f"{file}: field '{field}'") for file in series.files])
    return MetaTensor(torch.from_numpy(hu.T), affine=torch.as_tensor(series.affine), meta=_meta(folder))


def _read_cube(path: str, field: str) -> MetaTensor:
    hu, header = read_cube(path, f"{shown(path)}: field '{field}'")
    affine = cube_affine(header.size, header.fov_mm, torch.tensor(header.centre_mm, dtype=torch.float64))
    of_cube = {CUBE_FOV_MM: header.fov_mm, EXTENT_MM: list(header.extent_mm)}
    return MetaTensor(torch.from_numpy(hu), affine=affine, meta={**_meta(path), **of_cube})


def _meta(path: str) -> dict[str, Any]:
    """As MONAI's readers have it of an image without a channel: three axes of space."""
    no_channel = {MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan")}
    return {MetaKeys.SPACE: SpaceKeys.RAS, ImageMetaKey.FILENAME_OR_OBJ: path, **no_channel}


def _read_slice(file: str, where: str) -> np.ndarray:
    """
    `(rows, columns)` in HU: Rescale Slope times the stored value plus Rescale Intercept (PS3.3 C.11.1.1.2), whatever
    Photometric Interpretation says of how it is shown. Padding (PS3.3 C.7.5.1.1.2) is air.
    """
    image = with_transfer_syntax(dcmread(file, force=True))
    stored, padding = read_pixels(image, where)
    hu = stored * float(image.RescaleSlope) + float(image.RescaleIntercept)
    return np.where(padding, AIR_HU, hu).astype(np.float32)


def _check_nifti_header(path: str, where: str) -> None:
    """The header as it is: MONAI's reader changes an affine that does not fit the voxels' sides."""
    image = load_nifti(path)
    if not int(image.header["sform_code"]) and not int(image.header["qform_code"]):
        raise InputError(
            f"{where} has sform_code 0 and qform_code 0, expected one of them above 0: the file does not say which "
            f"side is the patient's right; convert the original again."
        )
    check_axes(torch.as_tensor(image.affine[:3, :3]), where)
    _check_nifti_forms(image, where)


def _check_nifti_forms(image: nibabel.Nifti1Image, where: str) -> None:
    """Of a header that says twice where the voxels lie: once as a matrix and once as a rotation and the sides."""
    header = image.header
    if len(image.shape) < 3:
        return  # of no volume, which is said later
    sides, zooms = np.linalg.norm(image.affine[:3, :3], axis=0), np.asarray(header.get_zooms()[:3], float)
    if int(header["sform_code"]) and not np.allclose(sides, zooms, rtol=LARGEST_RATIO):
        raise InputError(
            f"{where} contradicts itself: by its sform voxels are of {_by(sides)}, by its pixdim of {_by(zooms)}; "
            f"correct the wrong one."
        )
    if not (int(header["sform_code"]) and int(header["qform_code"])):
        return
    sform, qform = header.get_sform(), header.get_qform()
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*np.subtract(image.shape[:3], 1), 1]
    apart = np.linalg.norm(corners @ (sform - qform).T, axis=1).max()
    is_mirrored = np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
    if is_mirrored or (header["sform_code"] == header["qform_code"] and apart > max(zooms)):
        raise InputError(
            f"{where} contradicts itself: its sform and its qform, codes {int(header['sform_code'])} and "
            f"{int(header['qform_code'])}, put voxels up to {apart:.4g} apart"
            f"{', one of them mirrored' if is_mirrored else ''}; expected one place: correct or remove the wrong one."
        )


def _by(sides: np.ndarray) -> str:
    return " x ".join(f"{side:.4g}" for side in sides)
