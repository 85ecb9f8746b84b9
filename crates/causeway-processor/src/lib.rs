//! The shell around a pure fold and decide: deliveries, claims, marks, retry, dead letters
