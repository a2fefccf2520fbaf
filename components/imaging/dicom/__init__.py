"""DICOM head CT: find the series of a folder or zip, choose one, read it as the volume that a NIfTI file gives.

No value that names a patient is read, let alone kept; messages name files, geometry and series numbers only.
"""
