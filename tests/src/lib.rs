//! Workspace tests
