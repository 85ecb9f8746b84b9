//! The gateway's client for interfaces and the command line
