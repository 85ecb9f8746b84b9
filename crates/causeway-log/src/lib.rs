//! The log on JetStream: append, read, subscribe, fold
