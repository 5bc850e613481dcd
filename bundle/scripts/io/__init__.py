"""Files to arrays and back: DICOM, NIfTI, NRRD, MetaImage and pictures; whole files, sidecars. Knows no model."""
