//! The translation core.
