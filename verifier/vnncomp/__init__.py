"""Benchmark categories in the format of VNN-COMP: single instances, whole categories, reports."""
