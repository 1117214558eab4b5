//! An end at every byte.
