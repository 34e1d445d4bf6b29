import _witness

from falconas import Context, script


@script(access="read")
def run(ctx: Context, nonce: str) -> dict[str, str]:
    """Return the nonce."""
    _witness.write("start", nonce, ctx)
    _witness.write("end", nonce, ctx)
    return {"nonce": nonce}
