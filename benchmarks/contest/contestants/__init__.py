"""Who takes part. A contestant states its version, why it does not take a row, and prepares a row's call."""

from . import attention_gym, cudnn_frontend, fla, flash_qla, ours

ALL = [ours.Ours(), fla.Fla(), fla.FlaTileLang(), flash_qla.FlashQla(), cudnn_frontend.CudnnFrontend(),
       attention_gym.AttentionGym()]  # fmt: skip
BY_NAME = {contestant.name: contestant for contestant in ALL}
