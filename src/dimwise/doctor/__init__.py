"""The doctor: name the mistake, prove the cure, stay silent on the healthy."""

from __future__ import annotations
