/**
 * Messages to a kernel whose main shell may be busy: a subshell, asked for on the control channel, answers meanwhile.
 *
 * Replies are taken from the channel itself, never from IOPub: there a flood of prints makes the server drop messages.
 */

import { type Kernel, KernelMessage } from '@jupyterlab/services';
import type { JSONObject } from '@lumino/coreutils';

/** Make a subshell; null where the kernel has none. Never answered by a kernel that does not know the question. */
export async function createSubshell(kernel: Kernel.IKernelConnection): Promise<string | null> {
  const message = KernelMessage.createMessage<KernelMessage.ICreateSubshellRequestMsg>({
    msgType: 'create_subshell_request',
    channel: 'control',
    username: kernel.username,
    session: kernel.clientId,
    content: {}
  });
  const future = kernel.sendControlMessage(message, true);
  return new Promise(resolve => {
    future.onReply = reply => {
      const { content } = reply as KernelMessage.ICreateSubshellReplyMsg;
      resolve(content.subshell_id ?? null); // An error has none.
    };
  });
}

export function deleteSubshell(kernel: Kernel.IKernelConnection, subshellId: string): void {
  const message = KernelMessage.createMessage<KernelMessage.IDeleteSubshellRequestMsg>({
    msgType: 'delete_subshell_request',
    channel: 'control',
    username: kernel.username,
    session: kernel.clientId,
    content: { subshell_id: subshellId }
  });
  try {
    kernel.sendControlMessage(message, true);
  } catch {
    // A dead kernel has no subshells.
  }
}

/** Id of the comm that the kernel holds open for this target, or undefined. */
export async function findComm(
  kernel: Kernel.IKernelConnection,
  target: string,
  subshellId: string | null
): Promise<string | undefined> {
  const message = KernelMessage.createMessage<KernelMessage.ICommInfoRequestMsg>({
    msgType: 'comm_info_request',
    channel: 'shell',
    username: kernel.username,
    session: kernel.clientId,
    subshellId,
    content: { target_name: target }
  });
  const future = kernel.sendShellMessage(message, true);
  return new Promise(resolve => {
    future.onReply = reply => {
      const { content } = reply as KernelMessage.ICommInfoReplyMsg;
      resolve(content.status === 'ok' ? Object.keys(content.comms)[0] : undefined);
    };
  });
}

/** Throws where the kernel is dead. */
export function sendToComm(
  kernel: Kernel.IKernelConnection,
  commId: string,
  subshellId: string | null,
  data: JSONObject
): void {
  const message = KernelMessage.createMessage<KernelMessage.ICommMsgMsg<'shell'>>({
    msgType: 'comm_msg',
    channel: 'shell',
    username: kernel.username,
    session: kernel.clientId,
    subshellId,
    content: { comm_id: commId, data }
  });
  kernel.sendShellMessage(message, false);
}
