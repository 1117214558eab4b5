//! The style of the house, as tests: who may import whom, where unsafe code and certain crates
//! live, and that nothing stands around unused.
//!
//! Each rule is a function from sources to what breaks it, so that its test on the tree has a twin
//! on a made-up text that must be found wanting.

mod dependencies;
mod files;
mod imports;
mod lexer;
mod markers;
mod operating;
mod ownership;
mod paths;
mod readme;
mod source;
