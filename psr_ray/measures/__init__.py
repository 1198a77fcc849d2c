"""Figures of models, solutions, searches and samples, from the rows that engines wrote."""
