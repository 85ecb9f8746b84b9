//! Views: pure folds of the log
