// Gates with one number per token, on the way from device to shared memory: a thread of the load warpgroup to a token, zeros
// from `exist` on.
template <typename T>
DEVICE void load_tokens(int vector, const T* rows, i64 stride, int exist) {
  const int token = thread_index() % 128;
  if (token < CHUNK) at<float>(vector + token * 4) = token < exist ? load_number(rows + token * stride) : 0.0f;
}
