//! What the numbers become: medians, ratios, a table, targets, a plot. No input
//! or output, and nothing of the rest of the benchmark, so that the crate's tests
//! can include this module.

pub(crate) mod format;
pub(crate) mod markdown;
pub(crate) mod model;
pub(crate) mod svg;
pub(crate) mod targets;
