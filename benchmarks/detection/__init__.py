"""Does the product find bad UVES calibration frames, and leave good ones alone: measured."""
