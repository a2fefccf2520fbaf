"""Tests on real head CT, which lies outside the project; they skip where it is absent."""
