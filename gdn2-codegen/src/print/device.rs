//! The device code of `templates/device/`, by name.

macro_rules! device_file {
    ($name:literal) => {
        include_str!(concat!("../../templates/device/", $name, ".cuh"))
    };
}
pub(crate) use device_file as device;

/// What every kernel begins with.
pub(crate) const BASE: &str = concat!(device!("base"), device!("warp"), device!("elements"));
