//! The exported functions.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi::{AbiError, Call, CallError, Gradients, OWN, Sizes, Tensor, aligned, object, optional};
use crate::double;
use crate::pool::Pool;
use gdn2::__private::{Arch, Loaded, Tensor as Owned};
use gdn2::{Device, Dtype, Slots, bf16, f16};
use gdn2_dsl::{Rule, parse_file};

/// `gdn2_kernels`.
#[derive(Debug)]
pub struct Kernels(pub(crate) Loaded);

/// Kernels that a Rust program loaded, for C code beside it.
impl From<Loaded> for Kernels {
    fn from(loaded: Loaded) -> Kernels {
        Kernels(loaded)
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
    pub(crate) static LAST_TEXT: RefCell<CString> = RefCell::default();
}

/// Runs a call; a failure is kept for `gdn2_last_error`. A panic does not cross into C.
pub(crate) fn guarded(call: impl FnOnce() -> Result<(), CallError>) -> c_int {
    let message = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the library failed inside: this is a bug, please report it with the call that led here".to_owned(),
    };
    LAST_ERROR.with(|last| *last.borrow_mut() = CString::new(message.replace('\0', " ")).unwrap_or_default());
    1
}

/// A text argument.
unsafe fn text<'a>(pointer: *const c_char, name: &'static str) -> Result<Option<&'a str>, AbiError> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller promises a string that ends in NUL.
    unsafe { CStr::from_ptr(pointer) }.to_str().map(Some).map_err(|_| AbiError::Utf8(name))
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Texts are null or end in NUL; `kernels` points to room for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_load(
    rules: *const c_char,
    name: *const c_char,
    device: *const c_char,
    kernels: *mut *mut Kernels,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (rules, name, device) = unsafe { (text(rules, "rules")?, text(name, "name")?, text(device, "device")?) };
        let rule = choose(rules.ok_or(AbiError::Null("rules"))?, name)?;
        let (device, arch) = device_named(device.ok_or(AbiError::Null("device"))?)?;
        // SAFETY: the caller promises room for a pointer, which may hold anything.
        let place = unsafe { object(kernels.cast_const().cast::<MaybeUninit<*mut Kernels>>(), "kernels") }?;
        let loaded = Box::new(Kernels(Loaded::generate_for(rule, &device, arch)?));
        // SAFETY: not null and aligned, and the caller promises room.
        unsafe { std::ptr::from_ref(place).cast_mut().cast::<*mut Kernels>().write(Box::into_raw(loaded)) };
        Ok(())
    })
}

/// A device, and the architecture whose kernels the virtual machine is to run: `vm:sm_90a`.
fn device_named(name: &str) -> Result<(Device, Option<Arch>), CallError> {
    match name.strip_prefix("vm:") {
        Some(arch) => Ok((Device::vm(), Some(arch.parse()?))),
        None => Ok((name.parse()?, None)),
    }
}

fn choose(text: &str, name: Option<&str>) -> Result<Rule, CallError> {
    let rules = parse_file(text).map_err(|mistakes| CallError::Rules(mistakes.render("rules", text, false)))?;
    let names: Vec<String> = rules.iter().map(|rule| rule.name.clone()).collect();
    let mut chosen = rules.into_iter().filter(|rule| name.is_none_or(|name| rule.name == name));
    match (chosen.next(), chosen.next()) {
        (Some(rule), None) => Ok(rule),
        (None, _) => Err(CallError::Rules(format!("no rule `{}`: there are {}", name.unwrap_or(""), names.join(", ")))),
        (Some(_), Some(_)) => Err(CallError::Rules(format!("choose one rule by name: {}", names.join(", ")))),
    }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// `kernels` is null or came from `gdn2_load` and is freed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_free(kernels: *mut Kernels) {
    if !kernels.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(kernels) });
    }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_forward(
    kernels: *const Kernels,
    call: *const Call,
    o: *const Tensor,
    final_state: *const Tensor,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let (kernels, call) = (object(kernels, "kernels")?, object(call, "call")?);
            let (o, final_state) = (optional(o, "o")?, optional(final_state, "final_state")?);
            if double::serves(&kernels.0, call)? {
                return double::forward(kernels.0.rule(), call, o, final_state);
            }
            let out = kernels.0.forward(call.inputs()?)?;
            write(o, &out.o, "o")?;
            write(final_state, &out.final_state, "final_state")
        }
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_decode(
    kernels: *const Kernels,
    call: *const Call,
    state: *const Tensor,
    o: *const Tensor,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let (kernels, call) = (object(kernels, "kernels")?, object(call, "call")?);
            let (state, o) = (object(state, "state")?, optional(o, "o")?);
            if double::serves(&kernels.0, call)? {
                return double::decode(kernels.0.rule(), call, state, o);
            }
            let inputs = call.inputs()?;
            let pool = Pool::<f32>::new(kernels.0.rule(), call, state)?;
            let mut states = Owned::zeros(pool.shape(), Dtype::F32)?;
            if let Some(numbers) = states.as_mut_slice::<f32>() {
                pool.read(numbers);
            }
            let slots = pool.own_slots();
            let out = kernels.0.decode(&mut states, Some(Slots::from(slots.as_slice())), inputs)?;
            write(o, &out, "o")?;
            pool.write(states.as_slice::<f32>().unwrap_or_default());
            Ok(())
        }
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_backward(
    kernels: *const Kernels,
    call: *const Call,
    d_o: *const Tensor,
    d_final_state: *const Tensor,
    gradients: *const Gradients,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe {
            let (kernels, call) = (object(kernels, "kernels")?, object(call, "call")?);
            let (d_o, d_final_state) = (object(d_o, "d_o")?, optional(d_final_state, "d_final_state")?);
            let places = object(gradients, "gradients")?;
            if double::serves(&kernels.0, call)? {
                return double::backward(kernels.0.rule(), call, d_o, d_final_state, places);
            }
            let d_o = d_o.view("d_o")?.ok_or(AbiError::Null("d_o"))?;
            let d_final_state = d_final_state.map_or(Ok(None), |grad| grad.view("d_final_state"))?;
            let results = kernels.0.backward(&kernels.0.save(call.inputs()?)?, d_o, d_final_state)?;
            for (place, name) in places.named().into_iter().filter(|(place, _)| !place.data.is_null()) {
                let result = results.get(name).ok_or(AbiError::NoGradient(name.name()))?;
                write(Some(place), result, name.name())?;
            }
            let own = kernels.0.rule().prologue.named();
            for (at, place) in places.own()?.iter().enumerate().filter(|(_, place)| !place.data.is_null()) {
                let result = own.get(at).and_then(|own| results.named(own.name)).ok_or(AbiError::NoGradient(OWN))?;
                write(Some(place), result, OWN)?;
            }
            Ok(())
        }
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_training_scratch(kernels: *const Kernels, shape: Sizes, bytes: *mut i64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { scratch(kernels, bytes, |kernels| Ok(kernels.0.training_scratch(shape.shape()?)?)) }
}

/// See `include/gdn2.h`.
///
/// # Safety
/// Every pointer is null or points to what the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_forward_scratch(kernels: *const Kernels, shape: Sizes, bytes: *mut i64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { scratch(kernels, bytes, |kernels| Ok(kernels.0.forward_scratch(shape.shape()?)?)) }
}

/// Writes how many bytes of scratch memory calls take.
///
/// # Safety
/// Every pointer is null or points to what the header says.
unsafe fn scratch(
    kernels: *const Kernels,
    bytes: *mut i64,
    needs: impl FnOnce(&Kernels) -> Result<usize, CallError>,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        let kernels = unsafe { object(kernels, "kernels") }?;
        aligned(bytes, "bytes")?;
        // SAFETY: aligned; the caller's promise.
        let place = unsafe { bytes.as_mut() }.ok_or(AbiError::Null("bytes"))?;
        *place = i64::try_from(needs(kernels)?).unwrap_or(i64::MAX);
        Ok(())
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// `kernels` is null or came from `gdn2_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_warmup(kernels: *const Kernels, shape: Sizes) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        let kernels = unsafe { object(kernels, "kernels") }?;
        Ok(kernels.0.warmup(shape.shape()?)?)
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// `kernels` is null or came from `gdn2_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_explain(kernels: *const Kernels, shape: Sizes) -> *const c_char {
    said(|text| {
        // SAFETY: the caller's promise.
        let kernels = unsafe { object(kernels, "kernels") }?;
        kernels.0.explain(shape.shape()?).iter().for_each(|kernel| *text += &format!("{kernel}\n"));
        Ok(())
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// `kernels` is null or came from `gdn2_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_watch_shapes(kernels: *const Kernels) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise.
        unsafe { object(kernels, "kernels") }?.0.watch_shapes();
        Ok(())
    })
}

/// See `include/gdn2.h`.
///
/// # Safety
/// `kernels` is null or came from `gdn2_load`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gdn2_seen_shapes(kernels: *const Kernels) -> *const c_char {
    said(|text| {
        // SAFETY: the caller's promise.
        *text = unsafe { object(kernels, "kernels") }?.0.seen_shapes().to_string();
        Ok(())
    })
}

/// A text for the caller, kept until this thread's next one; null where there is none.
fn said(tell: impl FnOnce(&mut String) -> Result<(), CallError>) -> *const c_char {
    let mut text = String::new();
    if guarded(|| tell(&mut text)) != 0 {
        return std::ptr::null();
    }
    LAST_TEXT.with(|last| {
        *last.borrow_mut() = CString::new(text).unwrap_or_default();
        last.borrow().as_ptr()
    })
}

/// See `include/gdn2.h`.
#[unsafe(no_mangle)]
pub extern "C" fn gdn2_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

/// Copies a result to where the caller wants it, converted to the caller's dtype.
///
/// # Safety
/// `place` is absent or describes memory that may be written.
unsafe fn write(place: Option<&Tensor>, result: &Owned, name: &'static str) -> Result<(), CallError> {
    let Some(place) = place.filter(|place| !place.data.is_null()) else { return Ok(()) };
    place.expect_row_major(name, result.shape())?;
    let numbers = result.to_f32();
    // SAFETY: the shapes agree, so the memory holds as many elements; it is row-major.
    unsafe {
        match place.dtype(name)? {
            Dtype::F32 => store(place, &numbers, |x| x),
            Dtype::Bf16 => store(place, &numbers, bf16::from_f32),
            Dtype::F16 => store(place, &numbers, f16::from_f32),
        }
    }
    Ok(())
}

unsafe fn store<T>(place: &Tensor, numbers: &[f32], narrow: impl Fn(f32) -> T) {
    let first = place.data.cast::<T>();
    for (index, number) in numbers.iter().enumerate() {
        // SAFETY: aligned, and the caller promises room for every number.
        unsafe { first.add(index).write(narrow(*number)) };
    }
}
