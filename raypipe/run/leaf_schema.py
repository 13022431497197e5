"""Knows the columns and types that a leaf has even when no row reaches it."""

from __future__ import annotations

import pyarrow as pa

from raypipe.contracts.step import Aggregate, Source
from raypipe.execution.source import read_tables
from raypipe.graph.graph import Graph
from raypipe.row import RESERVED
from raypipe.storage.tables import LINEAGE_SCHEMA, to_output_columns
from raypipe.values.arrays import parse_arrow_type


def leaf_schema(graph: Graph, leaf: str) -> pa.Schema:
    """The schema of a leaf without rows: source types, declared output types, text where neither says."""
    before: dict[str, dict[str, pa.DataType]] = {}
    after: dict[str, dict[str, pa.DataType]] = {}
    for name in graph.order[: graph.order.index(leaf) + 1]:
        before[name] = {column: kind for above in graph.predecessors[name] for column, kind in after[above].items()}
        after[name] = _types_after(graph, name, before[name], before)
    types = after[leaf]
    columns = graph.flows[leaf].columns
    names = types.keys() if columns is None else columns
    fields = [pa.field(name, types.get(name, pa.string())) for name in names]
    return to_output_columns(pa.schema([*fields, *LINEAGE_SCHEMA]).empty_table()).schema


def _types_after(
    graph: Graph, name: str, types: dict[str, pa.DataType], before: dict[str, dict[str, pa.DataType]]
) -> dict[str, pa.DataType]:
    step = graph.steps[name]
    if isinstance(step, Source):
        return _source_types(step)
    if isinstance(step, Aggregate):
        parent = {} if step.is_barrier else before[graph.opener(name)] or _source_types_of(graph, name)
        kept = step.by if isinstance(step.by, list) else list(parent)
        made = {column: kind if column in kept else pa.list_(kind) for column, kind in types.items()}
        return made | ({step.as_rows: pa.list_(pa.struct(list(types.items())))} if step.as_rows and types else {})
    written = {column: parse_arrow_type(kind) or pa.string() for column, kind in step.gives().items()}
    return types | written | ({"sample": pa.int64()} if step.copies > 1 else {})


def _source_types_of(graph: Graph, name: str) -> dict[str, pa.DataType]:
    source = graph.steps[graph.source_of(name)]
    return _source_types(source) if isinstance(source, Source) else {}


def _source_types(source: Source) -> dict[str, pa.DataType]:
    return {source.output_mappings.get(name, name): kind for name, kind in _read_types(source).items()}


def _read_types(source: Source) -> dict[str, pa.DataType]:
    for unit in source.units():
        for table in read_tables(source, unit):
            return {f.name: f.type for f in table.schema if f.name not in RESERVED}
    return {name: pa.string() for name in source.columns() or ()}
