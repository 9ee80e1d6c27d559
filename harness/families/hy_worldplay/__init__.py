"""HY-WorldPlay WAN-5B, Tencent's world model: chunks of latents from noise, prompt, camera and action, with a memory."""
