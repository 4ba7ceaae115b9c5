"""Open formulas: functions of a voxel, written in Python, as short programs that the kernels run.

    θ, ψ, γ (Python) ── trace ──▶ expression ── derivative ──▶ value, ∂/∂s, ∂/∂log s, ∂/∂φ_k(s) ──▶ program

`operations` is the table of what there is, `expression` the graph, `simplify` builds its nodes, `trace` runs
the user's functions on symbols, `derivative` differentiates, `program` allocates registers and encodes,
`printing` writes an expression as text.
"""
