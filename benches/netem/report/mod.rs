//! The report: what was measured, judged and shown. Complete in itself, so that a
//! test can hold it.

pub(crate) mod impairment;
pub(crate) mod judge;
mod markdown;
pub(crate) mod model;
mod plot;
pub(crate) mod results;

pub(crate) use self::markdown::markdown;
pub(crate) use self::plot::plot;
