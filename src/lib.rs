//! The engine of bstar: pipeline files, plans, scheduling, execution and reports.
//!
//! [`pipeline`] reads the file, [`plan`] lays out its steps, [`scheduler`] says what may run,
//! [`executor`] runs it, [`event`] and [`report`] tell of it, [`run_record`] remembers it, and
//! [`cli`] with [`commands`] is what a user types.

pub mod cli;
pub mod commands;
pub mod event;
pub mod executor;
mod lower;
pub mod pipeline;
pub mod plan;
pub mod report;
pub mod run_record;
pub mod scheduler;
mod scope;
pub mod unfold;
pub mod worker;
