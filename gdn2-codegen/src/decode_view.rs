//! What `decode.cu.hbs` prints: every number, name, type and call of a decode kernel as a ready string.

use crate::decode::Division;
use crate::kernel::{Kernel, Launch};
use crate::plan::Fold;
use crate::schedule::Decode;
