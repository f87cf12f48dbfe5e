"""Moments as `2026-11-21 14:03:07 UTC`, sortable by eye and never without their zone."""

DATETIME_FORMAT = "Y-m-d H:i:s e"
SHORT_DATETIME_FORMAT = "Y-m-d H:i e"
DATE_FORMAT = "Y-m-d"
TIME_FORMAT = "H:i:s"
