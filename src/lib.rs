//! The engine of bstar: pipeline files, plans, scheduling, execution and reports.

pub mod event;
pub mod plan;
