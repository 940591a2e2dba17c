"""Evaluation beside others: test sets, classical baselines, peers, and reports of what was measured."""
