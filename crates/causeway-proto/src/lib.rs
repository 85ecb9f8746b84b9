//! The wire contract: generated types, conversions, status and error, both ways
