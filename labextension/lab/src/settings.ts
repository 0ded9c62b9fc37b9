/** The user's settings, with what holds where there are none. */

import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { Signal } from '@lumino/signaling';

export class Settings {
  readonly changed = new Signal<this, void>(this);
  launchOptions = '--nproc auto';
  saveOnLaunch = true;
  showStatus = true;
  panelSide: 'left' | 'right' = 'right';

  /** A registry that fails (no schema, no server) leaves the defaults. */
  async follow(registry: ISettingRegistry, pluginId: string): Promise<void> {
    const settings = await registry.load(pluginId).catch(() => undefined);
    if (!settings) {
      return;
    }
    const read = (): void => {
      const found = settings.composite;
      this.launchOptions = String(found['launchOptions'] ?? this.launchOptions).trim();
      this.saveOnLaunch = found['saveOnLaunch'] !== false;
      this.showStatus = found['showStatus'] !== false;
      this.panelSide = found['panelSide'] === 'left' ? 'left' : 'right';
      this.changed.emit();
    };
    settings.changed.connect(read);
    read();
  }
}
