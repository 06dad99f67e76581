//! Log line in, decision out.
