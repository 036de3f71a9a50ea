//! The pool of states that decoding updates in place: which of them a call uses, read and written alone.

use std::collections::HashSet;

use crate::abi::{AbiError, Call, Kind, SLOTS, Tensor, in_words, slice};
use gdn2::{Dtype, IntoAxes};
use gdn2_dsl::{Rule, StateLayout};

/// A number that states are kept in.
pub(crate) trait Number: Copy {
    /// As a dtype.
    const KIND: Kind;
}

impl Number for f32 {
    const KIND: Kind = Kind::Stored(Dtype::F32);
}

impl Number for f64 {
    const KIND: Kind = Kind::Double;
}

/// The states of a call's sequences, inside the caller's pool.
pub(crate) struct Pool<T> {
    first: *mut T,
    /// By sequence; none is skipped.
    slots: Vec<Option<usize>>,
    /// Of the states that the call uses, one for each sequence.
    shape: [usize; 4],
}

impl<T: Number> Pool<T> {
    /// Finds the states of a call in a pool that is held against the rule before anything is read.
    ///
    /// # Safety
    /// `state` and `call.slots` describe memory as the header says, alive while the pool is.
    pub(crate) unsafe fn new(rule: &Rule, call: &Call, state: &Tensor) -> Result<Pool<T>, AbiError> {
        if state.data.is_null() {
            return Err(AbiError::Null("state"));
        }
        let (q, v) = (call.q.axes("q")?.0, call.v.axes("v")?.0);
        let sequences = q.as_slice().first().copied().unwrap_or(0);
        let heads = v.as_slice().get(2).copied().unwrap_or(0);
        // SAFETY: the caller's promise.
        let slots = unsafe { slice(call.slots, call.slots_len, SLOTS)? };
        let states = match slots {
            None => sequences,
            Some(_) => state.axes("state")?.0.as_slice().first().copied().unwrap_or(0),
        };
        let kind = state.kind("state")?;
        if kind != T::KIND {
            return Err(AbiError::Stored { tensor: "state", got: in_words(kind), want: in_words(T::KIND) });
        }
        let shape = state_shape(rule, states, heads);
        state.expect_row_major("state", &shape)?;
        let slots = match slots {
            None => (0..sequences).map(Some).collect(),
            Some(slots) => apart(slots, sequences, states)?,
        };
        let shape = state_shape(rule, sequences, heads);
        let elements = shape.into_axes().and_then(|axes| axes.elements()).unwrap_or(usize::MAX);
        let room = Vec::<T>::new().try_reserve_exact(elements);
        room.map_err(|_| AbiError::Memory { tensor: "state", elements })?;
        Ok(Pool { first: state.data.cast(), slots, shape })
    }

    /// Of the states by sequence.
    pub(crate) fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The slots of the states by sequence: a sequence's own number, or the mark of one that is skipped.
    pub(crate) fn own_slots(&self) -> Vec<i32> {
        let mark = |(index, slot): (usize, &Option<usize>)| slot.map_or(-1, |_| i32::try_from(index).unwrap_or(-1));
        self.slots.iter().enumerate().map(mark).collect()
    }

    /// Copies the states that are used, by sequence.
    ///
    /// # Safety
    /// The caller's promise of [`Pool::new`].
    pub(crate) unsafe fn read(&self, states: &mut [T]) {
        for (state, slot) in states.chunks_exact_mut(self.state().max(1)).zip(&self.slots) {
            if let Some(slot) = slot {
                // SAFETY: the slot was held against the pool's size.
                let from = unsafe { std::slice::from_raw_parts(self.first.add(slot * self.state()), state.len()) };
                state.copy_from_slice(from);
            }
        }
    }

    /// Copies the states that were used back to where they came from.
    ///
    /// # Safety
    /// The caller's promise of [`Pool::new`].
    pub(crate) unsafe fn write(&self, states: &[T]) {
        for (state, slot) in states.chunks_exact(self.state().max(1)).zip(&self.slots) {
            if let Some(slot) = slot {
                // SAFETY: as above; slots differ.
                let to = unsafe { std::slice::from_raw_parts_mut(self.first.add(slot * self.state()), state.len()) };
                to.copy_from_slice(state);
            }
        }
    }

    /// Elements of one state.
    fn state(&self) -> usize {
        self.shape.iter().skip(1).product()
    }
}

/// The shape of a rule's states.
pub(crate) fn state_shape(rule: &Rule, states: usize, heads: usize) -> [usize; 4] {
    let (k, v) = (rule.key_dim as usize, rule.value_dim as usize);
    match rule.state {
        StateLayout::Kv => [states, heads, k, v],
        StateLayout::Vk => [states, heads, v, k],
    }
}

/// One slot for each sequence, inside the pool and no other sequence's; negative ones skip.
fn apart(slots: &[i32], sequences: usize, states: usize) -> Result<Vec<Option<usize>>, AbiError> {
    if slots.len() != sequences {
        return Err(AbiError::Slots { got: slots.len(), want: sequences });
    }
    let mut taken = HashSet::new();
    let place = |(index, slot): (usize, &i32)| {
        let wrong = |limit| AbiError::Slot { index, got: *slot, limit };
        match usize::try_from(*slot) {
            Err(_) => Ok(None),
            Ok(slot) if slot >= states => Err(wrong("the pool `state` has no such state")),
            Ok(slot) if !taken.insert(slot) => Err(wrong("another sequence updates that state, slots must differ")),
            Ok(slot) => Ok(Some(slot)),
        }
    };
    slots.iter().enumerate().map(place).collect()
}
