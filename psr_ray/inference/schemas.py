"""Columns of what engines write, one schema a kind of task."""

import pyarrow as pa

from psr_ray.method.preferences import IDS

SEARCH_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("plan", pa.string()),
        ("prompt_ids", IDS),
        ("end", pa.string()),
        ("predicted", pa.string()),
        ("correct", pa.bool_()),
        ("num_rollbacks", pa.int32()),
        ("num_sampled_tokens", pa.int64()),
        ("num_judge_tokens", pa.int64()),
        ("num_prompt_tokens", pa.int64()),
        ("num_cached_tokens", pa.int64()),
        ("error", pa.string()),
        (
            "steps",
            pa.list_(
                pa.struct(
                    [
                        ("number", pa.int32()),
                        ("outcome", pa.string()),
                        ("kept", pa.bool_()),
                        ("chosen", pa.int32()),
                        ("rejected", pa.int32()),
                        ("num_truncated", pa.int32()),
                        (
                            "candidates",
                            pa.list_(
                                pa.struct(
                                    [
                                        ("text", pa.string()),
                                        ("token_ids", IDS),
                                        ("count", pa.int32()),
                                        ("ended", pa.bool_()),
                                        ("score", pa.float64()),
                                        ("is_right", pa.bool_()),
                                        ("judgement", pa.string()),
                                    ]
                                )
                            ),
                        ),
                        (
                            "verdicts",
                            pa.list_(
                                pa.struct(
                                    [
                                        ("first", pa.int32()),
                                        ("second", pa.int32()),
                                        ("first_wins", pa.float64()),
                                        ("text", pa.string()),
                                    ]
                                )
                            ),
                        ),
                    ]
                )
            ),
        ),
    ]
)

SOLUTION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("text", pa.string()),
        ("predicted", pa.string()),
        ("correct", pa.bool_()),
        ("unboxed", pa.string()),  # the answer stated outside a box, where there is no box
        ("unboxed_correct", pa.bool_()),
        ("finish", pa.string()),
        ("num_steps", pa.int32()),
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)

SAMPLES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("answer", pa.string()),
        (
            "samples",
            pa.list_(
                pa.struct(
                    [
                        ("predicted", pa.string()),
                        ("correct", pa.bool_()),
                        ("num_tokens", pa.int64()),
                    ]
                )
            ),
        ),
        ("best", pa.int32()),  # place of the sample that the model's own judge prefers
        ("num_tokens", pa.int64()),
        ("num_judge_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)

TREE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        (
            "steps",
            pa.list_(
                pa.struct(
                    [
                        ("number", pa.int32()),
                        ("steps_so_far", pa.list_(pa.string())),
                        (
                            "candidates",
                            pa.list_(
                                pa.struct(
                                    [
                                        ("text", pa.string()),
                                        ("count", pa.int32()),
                                        ("ended", pa.bool_()),
                                        ("value", pa.float64()),
                                    ]
                                )
                            ),
                        ),
                    ]
                )
            ),
        ),
        ("end", pa.string()),
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)

TEXT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("finish", pa.string()),
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)

PROBE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("scores", pa.list_(pa.float64())),  # of M1's candidates, by this model as judge
        ("own_text", pa.string()),
        ("own_win", pa.float64()),  # its own step against M1's candidates, as it judges
        ("own_true_win", pa.float64()),  # the same by the truth
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)

JUDGEMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("verdict", pa.string()),
        ("first_order", pa.float64()),
        ("second_order", pa.float64()),
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)
