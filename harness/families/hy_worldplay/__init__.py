"""HY-WorldPlay WAN-5B, Tencent's world model: chunks of latents from noise, prompt, camera, action and a memory."""
