//! Bans heard of in, a plan for the kernel out.
