//! What every printer shares: templates, device files, parameter lists and the words of a file's head.

pub(crate) mod computed;
pub(crate) mod device;
pub mod part;
pub(crate) mod regions;
pub(crate) mod signature;
pub(crate) mod template;
pub(crate) mod wgmma;
