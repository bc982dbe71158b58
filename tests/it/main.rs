//! The executables as a user meets them: one test binary, one module a promise.

mod bad_input;
mod cli;
mod damage;
mod grade;
mod kill;
mod methods;
mod reuse;
mod support;
