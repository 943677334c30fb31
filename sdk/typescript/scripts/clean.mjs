// Removes what earlier builds left, so that a file that is gone from the sources is gone from the package.
import { rmSync } from "node:fs";

for (const folder of ["dist", "build"])
  rmSync(new URL(`../${folder}`, import.meta.url), { recursive: true, force: true });
