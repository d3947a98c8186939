"""Explanations through the call conventions of other attribution libraries."""
