//! What every process needs: configuration, telemetry, signals, supervision
