"""Files to arrays and back: DICOM, NIfTI, NRRD, MetaImage and image files; whole files, sidecars. Knows no model."""
