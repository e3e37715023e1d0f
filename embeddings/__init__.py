"""Numerical core: arrays in, arrays out.

Pre-processing, encoder, clustering, residual model, classifier, nearest neighbours, projection.
No module of this package handles paths of frames, headers, database rows or settings.
"""

__all__ = [
    "classifier",
    "classifier_data",
    "classifier_head",
    "classifier_training",
    "clustering",
    "encoder",
    "encoder_openvino",
    "index",
    "preprocess",
    "projection",
    "residual",
    "residual_maps",
]
