//! The executables as a user meets them: one test binary, one module a promise.

mod answers;
mod bad_input;
mod care;
mod cli;
mod commands;
mod damage;
mod export;
mod gpu;
mod grade;
mod hazards;
mod hub;
mod kill;
mod labels;
mod looks;
mod methods;
mod models;
mod pause;
mod race;
mod reuse;
#[path = "../../cache/tests-support/servers.rs"]
mod servers;
mod signals;
mod steps;
mod support;
mod sweep;
mod sweeps;
mod toy;
mod trials;
