//! The engine of bstar: pipeline files, plans, scheduling, execution and reports.
//!
//! [`pipeline`] reads the file, [`plan`] lays out its steps, [`scheduler`] says what may run,
//! [`executor`] runs it, [`reason`] and [`graph`] show what it would do, [`event`] and [`report`] tell of it, [`run_record`] remembers it, and
//! [`cli`] with [`commands`] is what a user types.

pub mod cli;
pub mod commands;
pub mod estimate;
pub mod event;
pub mod executor;
pub mod failure;
pub mod gc;
pub mod graph;
mod lower;
pub mod pipeline;
pub mod plan;
pub mod reason;
pub mod report;
pub mod run_record;
pub mod scheduler;
mod scope;
pub mod sweep;
pub mod unfold;
pub mod worker;
